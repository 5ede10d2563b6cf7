"""What the methods share: checked inputs, row descriptions, the model, the engine that runs it."""
