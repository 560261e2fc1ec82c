"""What Flower's clipping and differential-privacy wrappers need around them to hold what they promise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp import GaussianPrivacyEvent, PrivacyAccountant
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideAdaptiveClipping,
    DifferentialPrivacyServerSideFixedClipping,
    Strategy,
)

from fedpurel_app.core.errors import RunError, StateError
from fedpurel_app.core.records import to_arrays
from fedpurel_app.strategies.inner_checks import layers
from fedpurel_app.strategies.screening import BadReplyError

AT_CLIENT = (DifferentialPrivacyClientSideFixedClipping, DifferentialPrivacyClientSideAdaptiveClipping)
AT_SERVER = (DifferentialPrivacyServerSideFixedClipping, DifferentialPrivacyServerSideAdaptiveClipping)
_NORM_BIT = "norm_bit"
_ZERO = 1e-18  # below it Flower's norm, a root of squares in float32, may be zero


class Clipping:
    """One of Flower's four wrappers that clip updates and add noise, as FedPuReL keeps it.

    Parameters
    ----------
    wrapper : Strategy
        One of Flower's ``DifferentialPrivacy...Clipping``.

    Notes
    -----
    Noise of standard deviation z C / n on a mean of n updates of norm C or less hides one of them only where each
    weighs 1 / n, where n is the number that came, and where each really is that short. Flower leaves all three to the
    user: it weights by numbers of examples, takes n from its constructor (accounted rounds with fewer replies it
    skips), and never looks whether a client clipped.
    """

    def __init__(self, wrapper: Strategy) -> None:
        self._wrapper: Any = wrapper

    @classmethod
    def within(cls, inner: Strategy) -> Clipping | None:
        """Find the wrapper among the layers of an inner strategy."""
        return next((cls(layer) for layer in layers(inner) if isinstance(layer, AT_CLIENT + AT_SERVER)), None)

    @property
    def norm(self) -> float:
        """Clipping norm C of the current round."""
        return float(self._wrapper.clipping_norm)

    @property
    def accountant(self) -> PrivacyAccountant | None:
        """Flower's accountant, where there is one."""
        accountant: PrivacyAccountant | None = getattr(self._wrapper, "accountant", None)
        return accountant

    def expect(self, clients: int) -> None:
        """Tell the wrapper how many updates there are to a mean; its noise is shared among as many."""
        self._wrapper.num_sampled_clients = clients

    def refuse_scalars(self, arrays: ArrayRecord) -> None:
        """Raise RunError for an array without a dimension: Flower 1.42 does not clip it."""
        scalars = sorted(name for name, array in arrays.items() if not tuple(array.shape))
        if scalars:
            raise RunError(f"{scalars}: Flower clips no array of shape (). Give it the shape (1,).")

    def check(self, content: RecordDict, sent: ArrayRecord) -> None:
        """Raise BadReplyError for an update that was to be clipped at the client and is not, or that cannot be.

        Parameters
        ----------
        content : RecordDict
            A reply whose arrays have the names and shapes of ``sent`` and are finite.
        sent : ArrayRecord
        """
        before = to_arrays(sent)
        after = to_arrays(next(iter(content.array_records.values())))
        squares = (np.square(after[name].astype(float) - value).sum() for name, value in before.items())
        length = float(np.sqrt(sum(squares)))
        if isinstance(self._wrapper, AT_SERVER):
            if length < _ZERO:
                raise BadReplyError("its update is zero; Flower's clipping divides by the norm")
            return
        size = float(np.sqrt(sum(np.square(value.astype(float)).sum() for value in before.values())))
        if length > self.norm * 1.0001 + 1e-6 * size:  # the client rounds its sum to the arrays' own type
            raise BadReplyError(
                f"its update has norm {length:.3g}, the clipping norm is {self.norm:.3g}: the client did not clip"
            )
        if isinstance(self._wrapper, DifferentialPrivacyClientSideAdaptiveClipping):
            bit = next(iter(content.metric_records.values()), MetricRecord()).get(_NORM_BIT)
            if bit not in (0, 1):
                raise BadReplyError(f"{_NORM_BIT} = {bit}: expected 0 or 1, which adaptiveclipping_mod sends")

    # --- books ------------------------------------------------------------------------------------------------------

    def facts(self) -> dict[str, float]:
        """Return what has been spent, as Flower accounts for it; empty where it does not."""
        return self.after(0)

    def after(self, rounds: int) -> dict[str, float]:
        """Return what will have been spent after so many rounds more."""
        if self.accountant is None:
            return {}
        account = self.accountant
        if rounds:
            account = type(account)(account.config)  # type: ignore[call-arg]
            account.load_state_dict(self.accountant.state_dict())
            account.compose(self._event(), rounds)
        spent = account.get_privacy_spent()
        return {"epsilon": spent.epsilon, "delta": spent.delta, "releases": spent.num_releases}

    def state(self, lost: int) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON.

        Parameters
        ----------
        lost : int
            Rounds that may be released before the next state is saved.
        """
        state: dict[str, Any] = {"clipping_norm": self.norm}
        if self.accountant is not None:
            state |= {"accountant": self.accountant.state_dict(), "spent": self.facts(), "if_cut_off": self.after(lost)}
        return state

    def restore(self, state: Mapping[str, Any], lost: int) -> None:
        """Take up a saved state.

        Parameters
        ----------
        state : mapping
            As :meth:`state` gave it.
        lost : int
            Rounds that may have been released after it was saved; they count as spent.

        Raises
        ------
        StateError
            When the state has no account and there is one to keep.
        """
        self._wrapper.clipping_norm = float(state.get("clipping_norm", self.norm))
        if self.accountant is None:
            return
        if "accountant" not in state:
            raise StateError("the checkpoint has no account of the privacy that was spent: start a new run.")
        self.accountant.load_state_dict(dict(state["accountant"]))
        if lost:
            self.accountant.compose(self._event(), lost)

    def _event(self) -> GaussianPrivacyEvent:
        accountant = self._wrapper.accountant
        return GaussianPrivacyEvent(self._wrapper.noise_multiplier, 1, accountant.config.population_size)


def outlook(clipping: Clipping | None, left: int) -> str:
    """Say what will have been spent of the privacy when so many global rounds more are over."""
    spent = {} if clipping is None else clipping.after(left)
    if not spent:
        return "of which Flower keeps no account of epsilon"
    return (
        f"epsilon = {spent['epsilon']:.2f} at delta = {spent['delta']:g} when all {spent['releases']} are released; "
        "training metrics and scores are not in it"
    )
