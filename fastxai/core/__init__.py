"""What the methods share: checked inputs, row descriptions, the model and the engine that runs it."""
