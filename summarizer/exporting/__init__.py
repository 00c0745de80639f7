"""A trained adapter in a form that other programs load: plain peft, transformers or CTranslate2."""
