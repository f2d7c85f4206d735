"""Captions by a vision-language model: structured, checked against what was measured, and paid for once.

`pictures` and `prompt` make a question of a clip, `dialogue` says what to ask next and when there is an answer, `answer`, `degenerate` and
`camera` check it, `backends` ask, `journal` keeps every answer as it comes, and `run` drives it all. `template` needs no model.
"""
