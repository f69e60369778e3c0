"""Stage costs of known machines, as data; see `light_tts/bench/simulation/machine_costs.py` for the fields."""
