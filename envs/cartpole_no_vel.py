"""`spikeloop/CartPoleNoVel-v0`: balance the pole without seeing any velocity.

`CartPole-v1` with its two velocities removed from the observation. From one observation alone the pole cannot be
balanced for long; a policy has to infer the velocities from what it saw before.

## Action space

`Discrete(2)`

| Action | Meaning                    |
|--------|----------------------------|
| 0      | push the cart to the left  |
| 1      | push the cart to the right |

## Observation space

`Box(shape=(2,), float32)`

| Index | Observation               | Low    | High  |
|-------|---------------------------|--------|-------|
| 0     | position of the cart x    | -4.8   | 4.8   |
| 1     | angle of the pole (rad) θ | -0.419 | 0.419 |

## Rewards

+1 for every step, the terminating one included. The reward threshold is 475.

## Starting state

x, θ and the hidden velocities are drawn uniformly from (-0.05, 0.05).

## Episode end

Termination when |θ| > 12° or |x| > 2.4. Truncation after 500 steps.

## Arguments

Those of `CartPole-v1`: `sutton_barto_reward` and `render_mode` ("human", "rgb_array").

## Version history

* v0: First version.
"""

from gymnasium.envs.registration import register

from spikeloop.envs.wrappers import HideVelocity

register(
    id="spikeloop/CartPoleNoVel-v0",
    entry_point="gymnasium.envs.classic_control.cartpole:CartPoleEnv",
    reward_threshold=475.0,
    max_episode_steps=500,
    additional_wrappers=(HideVelocity.wrapper_spec(keep=(0, 2)),),
)
