"""What both planes need and neither owns: EDF feasibility, cgroups, configuration, logging."""
