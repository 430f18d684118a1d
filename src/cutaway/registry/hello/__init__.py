"""The hello-world image that comes with this project: programs, layers and documents, made here."""
