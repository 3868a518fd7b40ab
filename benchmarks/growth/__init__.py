"""How the cost of a request grows: with routes, fields, bodies, connections, depth, workers."""
