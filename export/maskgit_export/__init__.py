"""Trains, converts, quantises and checks models for the maskgit runtime."""
