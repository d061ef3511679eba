"""What everything else is made of: subnets, families, costs, config keys, errors."""
