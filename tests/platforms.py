"""Computes here what other platforms compute."""

import jax


def compute_as(platform: str, monkeypatch) -> None:
  """Takes the branch of `platform` wherever code depends on the platform."""

  def platform_dependent(*args, default, **branches):
    return branches.get(platform, default)(*args)

  monkeypatch.setattr(jax.lax, "platform_dependent", platform_dependent)
