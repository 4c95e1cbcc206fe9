"""Writes test/fixtures/bleu.json: BLEU by NLTK and sacreBLEU. Needs nltk and sacrebleu."""

import json
import pathlib
import random
import warnings

import nltk
import sacrebleu
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

warnings.simplefilter("ignore")
random.seed(0)
WORDS = "the a cat dog sat on mat, 3.5 1,000 well-known 4-5 don't \"so\" &amp; (x) end. 喉咙 naïve $5 50% a/b".split()


def text(most):
    return " ".join(random.choice(WORDS) for _ in range(random.randint(0, most)))


def near(reference):
    words = reference.split()
    for _ in range(random.randint(0, 3)):
        if words:
            at = random.randrange(len(words))
            words[at : at + random.randint(0, 2)] = random.choices(WORDS, k=random.randint(0, 2))
    return " ".join(words)


pairs = [
    ("the cat sat on the mat", "the cat sat on the mat"),
    ("It is a guide to action which ensures that the military always obeys the commands of the party",
     "It is a guide to action that ensures that the military will forever heed Party commands"),
    ("a", "a"),
    ("a b", "a b"),
    ("a b c", "a b c d"),
    ("", "a"),
    ("x", ""),
    ("A line.\nAnother, with 1,5 and a hy-\nphen <skipped>", "A line. Another, with 1,5 and a hyphen"),
    ("🌡️ 38.2°C", "🌡️ 38.2°C — high"),
]
for _ in range(60):
    reference = text(14)
    pairs.append((near(reference) if random.random() < 0.7 else text(14), reference))

METHODS = {"none": "method0", "floor": "method1", "add-one": "method2", "exp": "method3"}


def by_nltk(hypothesis, reference, smoothing):
    smooth = getattr(SmoothingFunction(), METHODS[smoothing])
    return float(sentence_bleu([reference], hypothesis, smoothing_function=smooth))


def by_sacrebleu(hypothesis, reference, smoothing):
    return sacrebleu.sentence_bleu(hypothesis, [reference], smooth_method=smoothing).score / 100


rows = []
for hypothesis, reference in pairs:
    words = hypothesis.split(), reference.split()
    rows.append(
        {
            "hypothesis": hypothesis,
            "reference": reference,
            "tokens13a": Tokenizer13a()(hypothesis.rstrip()).split(),
            "nltkWords": {name: by_nltk(*words, name) for name in METHODS},
            "nltkCharacters": {name: by_nltk(hypothesis, reference, name) for name in METHODS},
            "sacrebleu": {name: by_sacrebleu(hypothesis, reference, name) for name in ("exp", "floor")},
        }
    )
out = {"nltk": nltk.__version__, "sacrebleu": sacrebleu.__version__, "rows": rows}
path = pathlib.Path(__file__).parent.parent / "fixtures" / "bleu.json"
path.write_text(json.dumps(out, ensure_ascii=False, indent=1) + "\n")
