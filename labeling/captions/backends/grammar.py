"""Holds a local model's answer to its schema while it is written, with xgrammar."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# A text is closed when this much of its longest length is there: the tokens that are allowed until then may be several characters long.
_FULL = 0.9
_BLANKS = r"\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"  # beyond ASCII
_TEXT = rf"""text ::= ([^"\\\x00-\x20{_BLANKS}] rest | "\\" ["\\/] rest) (=[,}}])
rest ::= ("\"" | [^"\\\x00-\x1f] rest | "\\" ["\\/nt] rest) (=[,}}])"""


def grammar_of(schema: dict[str, Any]) -> str:
    """Grammar (xgrammar's EBNF) of the JSON texts of an object of texts that are not empty, in one line as models write it.

    The fields come in the schema's order; a text begins with no blank and has no control characters. The longest lengths are not part of
    it, see `Held`: xgrammar (0.2.8) takes milliseconds a token to count, and forbids escapes in a text with a length of its own schemas.
    """
    begins = [f'{", " if index else "{"}{json.dumps(name)}: "' for index, name in enumerate(schema["properties"])]
    return f'root ::= {" ".join(f"{json.dumps(begin)} text" for begin in begins)} "}}"\n{_TEXT}'


@dataclass
class Progress:
    """How far a JSON object of texts is written. `longest`: characters that each of its texts may have."""

    longest: Sequence[int]
    strings: int = 0  # that are closed: names and texts in turn
    is_open: bool = False  # a string is
    is_escaped: bool = False
    length: int = 0  # characters of the open string

    def add(self, written: bytes) -> None:
        """Go on with these bytes."""
        for byte in written:
            if self.is_escaped:
                self.is_escaped = False
                self.length += 1
            elif byte == 0x5C:  # backslash
                self.is_escaped = True
            elif byte == 0x22:  # quotation mark
                self.strings += self.is_open
                self.is_open = not self.is_open
                self.length = 0
            elif byte & 0xC0 != 0x80:  # not the rest of a character
                self.length += 1

    @property
    def is_full(self) -> bool:
        """A text is open and should be closed."""
        return self.is_open and self.strings % 2 == 1 and self.length >= _FULL * self.longest[self.strings // 2]


@dataclass(frozen=True)
class Constraint:
    """A schema, made ready for a model."""

    grammar: Any  # xgrammar.CompiledGrammar
    longest: tuple[int, ...]  # characters of each field
    pieces: Sequence[bytes]  # what each token writes
    closing: int  # the token that is a quotation mark and nothing else

    def processor(self) -> Any:
        """A logits processor for one call of generate."""
        from xgrammar.contrib.hf import LogitsProcessor

        class Held(LogitsProcessor):
            """Beyond the grammar, allows only the end of a text that is full."""

            def __call__(held, input_ids: Any, scores: Any) -> Any:
                had_begun = held.prefilled
                scores = super().__call__(input_ids, scores)
                if not had_begun:
                    held.progress = [Progress(self.longest) for _ in held.matchers]
                    return scores
                for row, (token, progress, matcher) in enumerate(zip(input_ids[:, -1].tolist(), held.progress, held.matchers, strict=True)):
                    if matcher.is_terminated():
                        continue
                    progress.add(self.pieces[token])
                    if progress.is_full and scores[row, self.closing] != -float("inf"):  # else: within a character
                        end = scores[row, self.closing].item()
                        scores[row] = -float("inf")
                        scores[row, self.closing] = end
                return scores

        return Held(self.grammar)


def constraint(schema: dict[str, Any], tokenizer: Any, vocabulary: int, ends: Sequence[int]) -> Constraint:
    """Hold answers to a schema of an object of texts. `vocabulary`: tokens that the model's head knows. Raises ValueError, RuntimeError."""
    import xgrammar

    tokens = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary, stop_token_ids=list(ends))
    pieces = tokens.decoded_vocab
    longest = tuple(field["maxLength"] for field in schema["properties"].values())
    return Constraint(xgrammar.GrammarCompiler(tokens).compile_grammar(grammar_of(schema)), longest, pieces, pieces.index(b'"'))
