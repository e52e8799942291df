"""What a run will need and whether it will learn, before it is started: forecast, checks, the machine."""
