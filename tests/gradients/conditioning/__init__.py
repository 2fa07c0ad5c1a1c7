"""Prompts, ControlNets, guiders, and what a graph keeps for itself."""
