"""Networks with several tickets of one initialisation, each with statistics of its own."""

import keras
import numpy as np
from networks import easy_data, small

from rst_tf import MaskedConv2D, MaskedDense, Normalization, Seed, Ticket, initialize

X, Y = easy_data(40)
DENSITIES = (0.2, 0.5, 0.8)
SEED, KIND = 3, "kaiming_normal"


def convolutional(granularity="element", affine=True):
    image = keras.Input((6, 6, 1))
    x = MaskedConv2D(5, 3, use_bias=False, granularity=granularity)(image)
    x = keras.layers.ReLU()(Normalization(affine=affine)(x))
    x = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))
    return keras.Model(image, MaskedDense(4, use_bias=False)(x))


BUILDERS = {
    "mlp": small,
    "conv": convolutional,
    "filters": lambda: convolutional("filter", affine=False),
}
WEIGHTS = {"mlp": "stored", "conv": Seed(SEED, KIND), "filters": "stored"}


def network(name, seed=SEED):
    net = BUILDERS[name]()
    initialize(net, seed, KIND)
    return net


def tickets(name, seed=SEED, weights=None):
    """Three tickets: random masks, and every other variable moved away from the others'."""
    made = []
    for number, density in enumerate(DENSITIES):
        net = network(name, seed)
        Ticket.of(net).prune(density, criterion="random", seed=number).apply(net)
        net(np.float32(1 + number) * X, training=True)
        for variable in net.trainable_variables:
            if variable.name in ("bias", "beta"):
                variable.assign_add(keras.random.normal(variable.shape, seed=number))
        made.append(Ticket.of(net, weights=weights or WEIGHTS[name]))
    return made


def own(name, ticket):
    """The network of one ticket alone."""
    net = BUILDERS[name]()
    ticket.apply(net, weights=True)
    return net


NETWORKS = {name: network(name) for name in BUILDERS}
TICKETS = {name: tickets(name) for name in BUILDERS}
OWN = {name: [own(name, ticket) for ticket in TICKETS[name]] for name in BUILDERS}
