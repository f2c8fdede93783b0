"""Further methods of the map, each one of the family's scripts with its axes moved."""
