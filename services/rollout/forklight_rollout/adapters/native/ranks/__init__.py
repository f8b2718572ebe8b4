"""One engine over the GPUs of a pod: this process leads, followers do the same device work on their parts.

    engine -> LeadingRunner --commands, a frame a step--> follower: Runner      (one process a GPU)
                  | the same work on its own part             | the same work on its part
                  '------- NCCL inside the model keeps them in step ------'

Followers draw as well (same logits, same seeds, same tokens), so no token travels. Nothing here is imported
or started for an engine of one process.
"""
