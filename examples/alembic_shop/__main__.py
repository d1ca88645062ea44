"""Migrate both schemas, see that nothing is left to migrate, and sell something."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from examples.alembic_shop.models import URL, Order, open_engine
from examples.purchase import Wanted, open_shop, purchase
from sqlalchemy.orm import Session

import onefold


def main() -> None:
    config = Config(Path(__file__).with_name("alembic.ini"))
    onefold.migrate(URL)
    command.upgrade(config, "head")
    command.check(config)
    engine = open_engine()
    with onefold.connect(URL) as db:
        db.run(open_shop, "ana")
        wanted = Wanted(order=db.run(lambda tx: tx.new_id("order")), buyer="ana", cents=1_250)
    with Session(engine) as session, session.begin():
        session.add(Order(id=wanted.order, buyer=wanted.buyer, cents=wanted.cents))
        session.flush()
        print("bought:", purchase(onefold.sqlalchemy.use(session), wanted))
    engine.dispose()


if __name__ == "__main__":
    main()
