"""The recipe: every key, its default, bound and meaning, once; reading it; overriding it. Imports no torch."""

from danlu.recipe.load import LoadedRecipe, dump_recipe, load_recipe
from danlu.recipe.schema import Recipe

__all__ = ["LoadedRecipe", "Recipe", "dump_recipe", "load_recipe"]
