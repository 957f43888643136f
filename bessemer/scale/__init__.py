"""Arithmetic before money: parameters, FLOPs, bytes."""
