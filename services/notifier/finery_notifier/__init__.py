"""The notifier: tells endpoints that agreed to hear what happened to tasks, deployments, models and datasets."""
