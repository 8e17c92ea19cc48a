"""Fine-tuning on tasks with the transformers `Trainer`, one module a task."""
