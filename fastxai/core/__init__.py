"""What the methods share: checked inputs, row descriptions, the model, the engine that runs it.

Internal: any version may change it. What is promised to authors of methods is in
:mod:`fastxai.extend`.
"""
