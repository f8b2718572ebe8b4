"""Rules: mathematics and format. The only public name is `verify_math` of `verify.py`."""
