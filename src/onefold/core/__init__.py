"""The vocabulary that every other folder speaks. Imports nothing of Onefold."""
