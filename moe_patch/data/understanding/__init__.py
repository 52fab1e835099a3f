"""What plain text means as a fact: which part of it is the subject, and which the new answer.

The rules here are for English. They know its small words, a few hundred verbs and how names are written, and
no single fact. A text that they do not understand for certain is refused, with what it could mean: a wrong
subject that nobody notices is worse than a question.

`moe_patch.data` reads files with this package, which imports nothing else of it but texts and facts.
"""
