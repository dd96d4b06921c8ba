"""`spikeloop/PendulumNoVel-v0`: swing up a pendulum without seeing its velocity.

`Pendulum-v1` with the angular velocity removed from the observation. A policy has to infer it from what it saw before,
to know when to pump and when to brake.

## Action space

`Box(-2, 2, shape=(1,), float32)`

| Index | Action                         | Low | High |
|-------|--------------------------------|-----|------|
| 0     | torque at the free joint (N m) | -2  | 2    |

## Observation space

`Box(-1, 1, shape=(2,), float32)`, where θ = 0 is upright

| Index | Observation | Low | High |
|-------|-------------|-----|------|
| 0     | cos θ       | -1  | 1    |
| 1     | sin θ       | -1  | 1    |

## Rewards

-(θ² + 0.1 θ'² + 0.001 torque²) for every step, θ in [-π, π]; between -16.3 and 0.

## Starting state

θ is drawn uniformly from [-π, π], the hidden velocity θ' from [-1, 1] rad/s.

## Episode end

No termination. Truncation after 200 steps.

## Arguments

Those of `Pendulum-v1`: `g`, the acceleration of gravity (default 10 m/s²), and `render_mode` ("human", "rgb_array").

## Version history

* v0: First version.
"""

from gymnasium.envs.registration import register

from spikeloop.envs.wrappers import HideVelocity

register(
    id="spikeloop/PendulumNoVel-v0",
    entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv",
    max_episode_steps=200,
    additional_wrappers=(HideVelocity.wrapper_spec(keep=(0, 1)),),
)
