"""Fitting an adapter: objectives, the loop, and the probes that later prove what is served."""
