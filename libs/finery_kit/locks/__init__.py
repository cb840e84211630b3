"""The exact versions of each environment: control.txt for the services, one file for each engine family."""
