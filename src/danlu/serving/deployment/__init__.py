"""Files that run several gateways behind nginx: under supervisord, systemd, Docker Compose, or Kubernetes."""
