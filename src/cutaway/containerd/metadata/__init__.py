"""Metadata in SQLite: schema, transactions and one module for each kind of object."""
