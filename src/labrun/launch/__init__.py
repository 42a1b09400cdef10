"""From a composed config to runs that are under way."""
