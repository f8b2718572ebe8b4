"""The HTTP door of a pod, in OpenAI's words, for agents, evaluations and existing clients."""
