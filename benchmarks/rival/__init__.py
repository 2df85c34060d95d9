"""The rival: hftbacktest, in a virtual environment of its own, on the same recordings with the same ladder.

`ladder` is the rule and runs in both environments; `events` and `call` run in ours, `replay` in the rival's.
"""
