"""Turn questions and images into a model's inputs."""
