"""Linear evaluation and fine-tuning."""
