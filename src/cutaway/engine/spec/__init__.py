"""From a container's settings to the OCI document that a runtime is given."""
