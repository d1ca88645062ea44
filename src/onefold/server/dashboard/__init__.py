"""The dashboard, for whoever is on call: server-drawn pages under /dashboard. See README.md."""

from __future__ import annotations

from onefold.server.dashboard.site import PATH, Asked, Dashboard

__all__ = ["PATH", "Asked", "Dashboard"]
