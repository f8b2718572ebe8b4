"""Any causal language model of transformers as the policy; transformers is imported when one is opened."""
