"""What turns questions and images into a model's inputs."""
