"""Search: from a query to rows."""
