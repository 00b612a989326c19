"""Costs, moves and predictions of one layer against dense matrices in float64."""

import pytest
import torch
from torch import Tensor, nn

from secateur.curvature import LayerCurvature, estimate
from secateur.likelihoods import Gaussian
from secateur.modules.matrix import LayerMatrix
from secateur.pruning import joint_layer
from secateur.pruning.joint_layer import DAMPING, JointLayer, affordable_spread
from secateur.pruning.measuring import measure

N, M, NUM_DATA, PRIOR = 4, 5, 50, 0.7


def normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def curvature_of(generator: torch.Generator, structure: str = "kronecker") -> LayerCurvature:
    """Factors whose row sums are not those of G (x) A, as those of convolutions are not."""
    rows, columns = normal(generator, N, N + 2), normal(generator, M, M + 2)
    inner = columns @ columns.mT
    squares = normal(generator, N, M).square()
    return LayerCurvature(
        matrix=LayerMatrix({"fc.weight": (N, M - 1), "fc.bias": (N,)}, N),
        A=None if structure == "diagonal" else inner,
        G=rows @ rows.mT if structure == "kronecker" else None,
        row_sums=squares.sum(1),
        diagonal=squares if structure == "diagonal" else None,
        num_positions=9,
    )


@pytest.fixture(params=["kronecker", "row", "diagonal"])
def structure(request) -> str:
    return request.param


@pytest.fixture
def case(structure, generator):
    return build(structure, generator)


def build(structure: str, generator: torch.Generator) -> tuple[JointLayer, Tensor]:
    """A layer with some entries out, and the dense curvature N H of its matrix read row by row."""
    curvature = curvature_of(generator, structure)
    present = torch.rand(N, M, generator=generator) > 0.3
    present[0] = True
    weights = torch.where(present, normal(generator, N, M), 0.0)
    found = JointLayer.of("fc", curvature, NUM_DATA, weights, present)
    if structure == "diagonal":
        return found, torch.diag(NUM_DATA * curvature.diagonal.reshape(-1))
    scale = curvature.row_sums / curvature.A.trace()
    if structure == "row":
        factor = torch.diag(scale)
    else:
        root = (scale / curvature.G.diagonal()).sqrt()
        factor = root[:, None] * curvature.G * root
    return found, NUM_DATA * torch.kron(factor, curvature.A)


def row_block(dense: Tensor, row: int) -> Tensor:
    return dense[row * M : (row + 1) * M, row * M : (row + 1) * M]


def test_a_whole_row_can_stand_in_for_an_entry(case):
    layer, dense = case
    found = layer.misfit(PRIOR, spread="row")
    for row in range(N):
        covariance = torch.linalg.inv(row_block(dense, row) + PRIOR * torch.eye(M, dtype=torch.float64))
        expected = layer.weights[row].square() / (2 * covariance.diagonal())
        torch.testing.assert_close(found[row], expected)
    assert (found[~layer.present] == 0).all()
    assert (found[layer.present] > 0).all()


def test_conditioned_on_what_is_out_only_the_rest_can(case):
    layer, dense = case
    found = layer.misfit(PRIOR, spread="conditioned")
    for row in range(N):
        kept = layer.present[row]
        block = row_block(dense, row)[kept][:, kept] + PRIOR * torch.eye(int(kept.sum()), dtype=torch.float64)
        expected = layer.weights[row][kept].square() / (2 * torch.linalg.inv(block).diagonal())
        torch.testing.assert_close(found[row][kept], expected)
    assert (found[~layer.present] == 0).all()
    # the fewer can stand in, the more a removal costs; nothing is out in row 0
    whole = layer.misfit(PRIOR, spread="row")
    assert (found >= whole * (1 - 1e-9)).all()
    torch.testing.assert_close(found[0], whole[0])


def test_a_weight_that_alone_knows_an_input_costs_its_square(generator):
    """Independent inputs: nothing can stand in, and both spreads are the diagonal's."""
    curvature = LayerCurvature(
        LayerMatrix({"fc.weight": (2, 3)}, 2),
        torch.diag(torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)),
        torch.eye(2, dtype=torch.float64),
        torch.tensor([3.0, 6.0], dtype=torch.float64),
        None,
        1,
    )
    weights = normal(generator, 2, 3)
    layer = JointLayer.of("fc", curvature, 10, weights, torch.ones(2, 3, dtype=torch.bool))
    expected = torch.tensor([[10.0, 20, 0], [20, 40, 0]], dtype=torch.float64) + PRIOR
    for spread in joint_layer.SPREADS:
        torch.testing.assert_close(layer.misfit(PRIOR, spread=spread), 0.5 * weights.square() * expected)


@pytest.fixture
def exactly(monkeypatch):
    monkeypatch.setattr(joint_layer, "TOLERANCE", 1e-13)
    monkeypatch.setattr(joint_layer, "MOST_STEPS", 1000)


def target(layer: JointLayer, generator: torch.Generator, share: float) -> Tensor:
    return layer.present & (torch.rand(N, M, generator=generator) < share)


def dense_move(layer: JointLayer, dense: Tensor, stays: Tensor) -> Tensor:
    """Solve the normal equations of the kept entries, damped towards where they are."""
    kept = stays.reshape(-1)
    damping = DAMPING * float(
        layer.row_curvature.diagonal().mean() * layer.column_curvature.diagonal().mean()
    )
    before = layer.weights.reshape(-1)
    away = torch.where(kept, 0.0, before)  # what is lost
    right = (dense @ away)[kept]
    block = dense[kept][:, kept] + damping * torch.eye(int(kept.sum()), dtype=torch.float64)
    moved = torch.where(kept, before, 0.0)
    moved[kept] += torch.linalg.solve(block, right)
    return moved.reshape(N, M)


@pytest.mark.parametrize("structure", ["kronecker", "row"], indirect=True)
@pytest.mark.parametrize("share", [0.9, 0.3])
@pytest.mark.usefixtures("exactly")
def test_what_stays_solves_the_normal_equations(case, generator, share):
    layer, dense = case
    stays = target(layer, generator, share)
    torch.testing.assert_close(layer.moved(stays), dense_move(layer, dense, stays))


def test_the_default_number_of_steps_finds_the_same_loss(generator):
    layer, dense = build("kronecker", generator)
    stays = target(layer, generator, 0.6)
    best = layer.rise(dense_move(layer, dense, stays))
    unmoved = layer.rise(torch.where(stays, layer.weights, 0.0))
    assert layer.rise(layer.moved(stays)) - best < 1e-4 * (unmoved - best)


def test_what_is_out_is_zero_and_a_move_never_costs(case, generator):
    layer, _ = case
    stays = target(layer, generator, 0.5)
    moved = layer.moved(stays)
    assert (moved[~stays] == 0).all()
    unmoved = torch.where(stays, layer.weights, 0.0)
    if layer.column_curvature is None:
        assert torch.equal(moved, unmoved)
    else:
        assert layer.rise(moved) < layer.rise(unmoved)
    assert torch.equal(layer.moved(layer.present), layer.weights)  # nothing goes, nothing moves


def test_the_predicted_rise_is_the_dense_quadratic_form(case, generator):
    layer, dense = case
    weights = normal(generator, N, M)
    step = (weights - layer.weights).reshape(-1)
    quadratic = float(step @ dense @ step) / 2
    assert layer.rise(weights) == pytest.approx(quadratic, rel=1e-10)
    assert layer.rise(layer.weights) == 0


def test_a_layer_that_nothing_depends_on_stays_as_it_is(generator):
    empty = LayerCurvature(
        LayerMatrix({"fc.weight": (N, M)}, N),
        torch.zeros(M, M, dtype=torch.float64),
        torch.zeros(N, N, dtype=torch.float64),
        torch.zeros(N, dtype=torch.float64),
        None,
        0,
    )
    weights, present = normal(generator, N, M), torch.ones(N, M, dtype=torch.bool)
    layer = JointLayer.of("fc", empty, NUM_DATA, weights, present)
    stays = target(layer, generator, 0.5)
    assert torch.equal(layer.moved(stays), torch.where(stays, weights, 0.0))
    assert layer.rise(layer.moved(stays)) == 0
    for spread in joint_layer.SPREADS:
        torch.testing.assert_close(layer.misfit(PRIOR, spread=spread), 0.5 * PRIOR * weights.square())


def test_the_own_prior_of_independent_entries_is_that_of_rows_of_one_column(generator):
    layer, dense = build("diagonal", generator)
    found = layer.own_prior(layer.weights, layer.present, num_rows=16)
    curvature = dense.diagonal()[layer.present.reshape(-1)]
    gamma = float((curvature / (curvature + found.precision)).sum())
    assert found.gamma == pytest.approx(gamma, rel=1e-6)
    volume = float((curvature / found.precision).log1p().sum())
    power = float(layer.weights.square().sum())
    assert found.evidence == pytest.approx(-0.5 * volume - 0.5 * found.precision * power, rel=1e-9)


class TestLinearRegression:
    """One output, known noise: G (x) A is the curvature itself, and the loss is a parabola."""

    NOISE = 0.3

    @pytest.fixture
    def regression(self, generator, exactly):
        inputs = normal(generator, 80, 6) @ normal(generator, 6, 6)
        targets = inputs @ normal(generator, 6, 1) + 0.5 + self.NOISE * normal(generator, 80, 1)
        design = torch.cat([inputs, torch.ones(80, 1, dtype=torch.float64)], 1)
        model = nn.Linear(6, 1).double()
        solution = torch.linalg.lstsq(design, targets).solution.mT
        model.weight.data, model.bias.data = solution[:, :6].clone(), solution[:, 6].clone()
        return model, inputs, targets, design

    def layer(self, model, inputs, targets) -> tuple[JointLayer, LayerMatrix]:
        found = estimate(model, [(inputs, targets)], likelihood=Gaussian(noise=self.NOISE), outputs="exact")
        (own,) = found.layers.values()
        weights = own.matrix.pack({name: each.detach() for name, each in model.named_parameters()})
        present = torch.ones_like(weights, dtype=torch.bool)
        return JointLayer.of("", own, found.num_data, weights, present), own.matrix

    def loss(self, model, inputs, targets) -> float:
        found = measure(model, [(inputs, targets)], Gaussian(noise=self.NOISE))
        return float(found.sums.sum())

    def set(self, model, matrix, weights) -> None:
        for name, value in matrix.unpack(weights).items():
            dict(model.named_parameters())[name].data.copy_(value)

    def test_the_observed_loss_rises_as_predicted(self, regression):
        model, inputs, targets, _ = regression
        layer, matrix = self.layer(model, inputs, targets)
        stays = torch.tensor([[True, False, True, True, False, False, True]])
        moved = layer.moved(stays)
        before = self.loss(model, inputs, targets)
        self.set(model, matrix, moved)
        assert self.loss(model, inputs, targets) - before == pytest.approx(layer.rise(moved), rel=1e-6)

    def test_the_moved_mean_is_least_squares_on_what_stays(self, regression):
        model, inputs, targets, design = regression
        layer, _ = self.layer(model, inputs, targets)
        stays = torch.tensor([[True, False, True, True, False, False, True]])
        best = torch.linalg.lstsq(design[:, stays[0]], targets).solution.squeeze(1)
        torch.testing.assert_close(layer.moved(stays)[stays], best, rtol=0.02, atol=0.02)  # it is damped
        rest = design[:, stays[0]]
        least = float((rest @ best.unsqueeze(1) - targets).square().sum()) / (2 * self.NOISE**2)
        now = float((design @ layer.moved(stays).mT - targets).square().sum()) / (2 * self.NOISE**2)
        start = design @ torch.where(stays, layer.weights, 0.0).mT
        unmoved = float((start - targets).square().sum()) / (2 * self.NOISE**2)
        assert least <= now < least + 1e-3 * (unmoved - least)

    def test_the_misfit_is_what_the_best_answer_to_a_removal_costs(self, regression):
        """Optimal brain surgeon: w^2 / 2 S_kk is the rise of the loss when all others answer."""
        model, inputs, targets, design = regression
        layer, _ = self.layer(model, inputs, targets)
        found = layer.misfit(1e-9)
        least = float((design @ layer.weights.mT - targets).square().sum())
        for entry in range(7):
            rest = torch.arange(7) != entry
            best = torch.linalg.lstsq(design[:, rest], targets).solution
            rise = float((design[:, rest] @ best - targets).square().sum()) - least
            assert float(found[0, entry]) == pytest.approx(rise / (2 * self.NOISE**2), rel=1e-6)


def test_small_networks_have_a_factor_for_each_row():
    def layer(rows: int, columns: int) -> JointLayer:
        weights = torch.zeros(rows, columns)
        return JointLayer("", weights, weights == 0, torch.eye(rows), torch.eye(columns), None)

    assert affordable_spread([layer(6, 26), layer(16, 151), layer(120, 257), layer(84, 121)]) == "conditioned"
    assert affordable_spread([layer(500, 785), layer(500, 501)]) == "row"
    assert affordable_spread([layer(100, 401)] * 4) == "row"  # that one alone has factors
    assert affordable_spread([layer(100, 401)]) == "conditioned"
