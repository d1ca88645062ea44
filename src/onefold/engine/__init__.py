"""The only code that knows a database driver: `Tx`, `Database`, and the two engines behind them."""
