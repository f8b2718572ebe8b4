"""The engine of many processes: DeepSpeed's ZeRO under our model, kernels, loss and checkpoints."""
