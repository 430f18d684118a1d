"""Spans of all parts, kept per trace for `cutaway trace`: the store and the sink for our own spans."""
