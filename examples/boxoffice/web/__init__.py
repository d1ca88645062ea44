"""The shop over HTTP: pages for people, JSON for programs, events for both."""
