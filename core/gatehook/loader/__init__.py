"""Plugins found, checked, built, collected, and measured."""
