"""Parts of gpu_proof.py."""
