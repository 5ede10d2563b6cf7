"""The door: other libraries' data and models in, and their forms out again."""
