"""The models of `noprop_table.py`: the networks of each method, with an embedding of the labels.

`config` is the `Config` of `noprop_table.py`.
"""

import diffrax as dfx
import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import flowprop as fp


class OrdinaryClassifier(eqx.Module):
    """The same encoder and head, trained to predict the class directly. The network sees no label."""

    encoder: eqx.Module
    network: fp.nn.FuseNetwork

    def logits(self, image):
        return self.network(0.0, jnp.zeros(self.network.shape), self.encoder(image))

    def loss(self, images, labels, *, key):
        logits = jax.vmap(self.logits)(images)
        return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    @eqx.filter_jit
    def predict(self, images, *, key):
        return jax.lax.map(lambda image: self.logits(image).argmax(), images, batch_size=500)


def make_encoder(config, shape, key):
    channels = config.channels
    if config.encoder == "conv":
        return fp.nn.ConvEncoder(shape, config.features, channels=channels, key=key)
    if config.encoder == "mixer":
        return fp.nn.MixerEncoder(shape, config.features, width=channels[0], key=key)
    return getattr(fp.nn, config.encoder)(shape, config.features, width=channels[0], key=key)


def make_block_encoder(config, shape, key):
    if config.encoder == "conv":
        return fp.nn.ConvEncoder(shape, config.features, channels=config.block_channels, stride=2, pool=None, key=key)
    return make_encoder(config, shape, key)


def make_head(config, embedding, out_shape, key):
    key_label, key_fuse = jax.random.split(key)
    label_encoder = fp.nn.LabelEncoder(embedding.matrix.shape[1:], 64, depth=1, key=key_label)
    return fp.nn.FuseNetwork(label_encoder, config.features, out_shape, width=256, depth=2, key=key_fuse)


def make_embedding(name, images, labels, num_classes, key):
    if name == "one-hot":
        return fp.one_hot_embedding(num_classes)
    if name == "dim-20":
        return fp.orthogonal_embedding(num_classes, 20, key=key)
    return fp.prototype_embedding(images, labels)


def make_model(config, method, name, data, key):
    images, labels = data
    num_classes = int(labels.max()) + 1
    key_embedding, key_encoder, key_head, key_rest = jax.random.split(key, 4)
    embedding = make_embedding(name, images, labels, num_classes, key_embedding)
    if method in ("dt", "backprop"):
        blocks = make_blocks(config, embedding, images.shape[1:], key_encoder, key_head, key_rest)
        return fp.BackpropClassifier(blocks) if method == "backprop" else blocks
    encoder = make_encoder(config, images.shape[1:], key_encoder)
    if method == "ordinary":
        head = make_head(config, fp.one_hot_embedding(num_classes), (num_classes,), key_head)
        return OrdinaryClassifier(encoder, head)
    flow, objective = make_flow(config, method, embedding, key_head, key_rest)
    if method == "adjoint":
        classifier = fp.Classifier(encoder=encoder, flow=flow, embedding=embedding)
        return fp.AdjointClassifier(classifier, fp.ODEIntegrator(dfx.Euler(), dt0=0.05, adjoint=dfx.BacksolveAdjoint()))
    linear = method == "df" or config.objective == "paper"
    readout = make_readout(embedding, key_rest) if linear else None
    return fp.Classifier(encoder=encoder, flow=flow, embedding=embedding, readout=readout, objective=objective)


def make_readout(embedding, key):
    num_classes, *shape = embedding.matrix.shape
    return fp.LinearReadout(tuple(shape), num_classes, key=key)


def make_blocks(config, embedding, image_shape, key_encoder, key_head, key_rest):
    """T blocks, with one encoder for all of them or one each."""
    num_classes = embedding.matrix.shape[0]
    if config.share_encoder:
        encoder = make_encoder(config, image_shape, key_encoder)
    else:
        keys = jax.random.split(key_encoder, config.num_blocks)
        encoder = [make_block_encoder(config, image_shape, k) for k in keys]
    heads = [make_head(config, embedding, (num_classes,), k) for k in jax.random.split(key_head, config.num_blocks)]
    paper = {"readout": make_readout(embedding, key_rest), "objective": fp.ELBOObjective(eta=0.1)}
    return fp.NoPropDT(heads, embedding=embedding, encoder=encoder, **(paper if config.objective == "paper" else {}))


def make_flow(config, method, embedding, key_head, key_rest):
    """A flow of labels and its objective. None means the default objective of the prediction."""
    num_classes, *shape = embedding.matrix.shape
    paper, points = config.objective == "paper", tuple(shape)
    logits = method in ("fm", "ct") and not (method == "fm" and paper)
    head = make_head(config, embedding, (num_classes,) if logits else points, key_head)
    match method, paper:
        case "fm", False:
            return fp.Flow(head, fp.CondOTPath(), fp.CategoricalPrediction(), shape=points), None
        case "fm" | "adjoint", _:
            return fp.fm_flow(head, shape=points), fp.FlowMatchingObjective()
        case "df", _:
            # At times with much noise, the error of the predicted noise depends little on the label. The cross-entropy
            # of the readout, applied to the estimated target, trains the class there.
            return fp.df_flow(head, shape=points, schedule=fp.CosineNoiseSchedule()), fp.FlowMatchingObjective()
        case "ct", False:
            schedule, objective = fp.SigmoidNoiseSchedule(10.0), None
        case "ct", True:
            schedule = fp.LearnableNoiseSchedule(trainable_ends=True, key=key_rest)
            objective = fp.ELBOObjective(eta=1.0)
    return fp.ct_flow(head, shape=points, schedule=schedule, prediction=fp.CategoricalPrediction()), objective


def label_parts(model):
    """The embedding and the readout of a model of any method."""
    inner = getattr(model, "blocks", getattr(model, "classifier", model))
    return inner.embedding, inner.readout
