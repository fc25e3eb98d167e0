"""Import and export of weights and models in the formats of other libraries."""
