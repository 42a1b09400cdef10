"""Direction of a metric, from its name: whether it is to be maximized or minimized. No other module guesses it.

A name is split into words (at `/`, `_`, `-`, `.`, spaces, digits and capitals) and read as a noun phrase. The longest
known phrase wins over the words in it (`error rate`, `log likelihood`). The last known word wins over those before it
(`accuracy_loss` is a loss). Words after a preposition are ignored (`fpr_at_95_tpr` is an FPR). An unknown or ambiguous
name (`neg_acc`: accuracy on the negative samples, or minus the accuracy?) has no direction; the caller must ask the
user for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Literal

Direction = Literal["max", "min"]
MAX: Direction = "max"
MIN: Direction = "min"


def _all(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LARGE = _all("""
acc accuracy precision prec averageprecision ap map mar recall sensitivity specificity youden gmean f1 f2 fbeta fscore
fmeasure f1score auc auroc roc rocauc auprc aupr aucpr prauc tpr tnr ppv npv tp tn truepositive truenegative
positivepredictivevalue negativepredictivevalue positivelikelihoodratio kappa qwk mcc matthews brierskill bacc uar iou
miou giou intersectionoverunion jaccard jaccardcoefficient dice dicecoefficient dsc pck pckh oks mota motp idf1 hota
pq panopticquality r2 adjr2 rsquared explainedvariance concordance ccc cindex correlation corr corrcoef
correlationcoefficient pearson pearsonr spearman pcc plcc srcc krcc spearmanr kendall kendalltau similarity agreement
psnr ssim msssim vif snr sdr sisdr sisnr signalnoiseratio signaltonoiseratio signaldistortionratio pesq stoi mos
intelligibility clipscore inceptionscore fidelity bleu sacrebleu rouge meteor cider spice chrf bertscore comet
exactmatch em informationpreserved ndcg dcg mrr reciprocalrank hit hitrate hitratio nmi ami ari rand silhouette
calinskiharabasz dunn homogeneity completeness vmeasure purity mutualinfo mutualinformation fowlkesmallows likelihood
loglikelihood loglik logprob elbo evidence reward rew return profit profitloss profitandloss pnl revenue gain lift
sharpe sharperatio ctr utility fitness success winrate win correct pass solved improvement novelty uniqueness validity
throughput fps speed speedup bandwidth goodput mfu
""")
"""Phrases in the singular, written without spaces."""

_SMALL = _all("""
loss error err errorrate mse rmse mae mape smape wape rmsle msle nmse nrmse mdae medae mase rmsd sse rss wer cer ter
mer eer der ser fer ber nll logloss crossentropy xent xentropy bce ce ece mce brier hinge huber pinball crps
perplexity ppl bpd bpc bpb bit bitsperdim bitsperbyte bitsperchar aic bic nlpd deviance residual divergence kl kld
kldiv jsd mmd wasserstein emd chamfer hausdorff hd assd fid kid fvd fad lpips imagepatchsimilarity niqe brisque mcd
epe ade fde absrel sqrel mpjpe distance dist dissimilarity distortion regret risk cost penalty violation collision
impurity inertia daviesbouldin drawdown aurc eaurc gap drop degradation disparity disagreement negativelikelihoodratio
informationlost editrate fpr fnr fdr fp fn fallout falsepositive falsenegative falsealarm falsediscovery falseomission
miss missed misclassification misclassified inaccuracy incorrect wrong mistake failure fail failed crash hallucination
intervalscore winkler energyscore rankedprobability variogram toxicity latency time duration runtime seconds second
sec secs ms millisecond minutes walltime memory overhead
""")

_WEAK = frozenset(("score", "quality", "performance"))
"""Words that mean maximize, unless another word in the name decides (a Brier score is minimized)."""

_UNSURE = _all("logscore logarithmicscore survivaltime heatmap featuremap timealive lifetime")
"""Phrases without a direction, although their words are known: a log score is defined with either sign."""
_NEGATIONS = _all(
    "neg negative negated minus inverse inv inverted reciprocal complement not non vs versus over "
    "corrected avoided prevented resolved saved saving savings free alive survival survived until till"
)
"""Words that make a name with a known phrase ambiguous."""
_AFTER = _all(
    "ratio delta diff difference change reduction decrease increase std stdev stddev var variance sigma weight coef "
    "coefficient lambda scale threshold norm gradient rank entropy size mode covered traveled travelled"
)
"""Words that turn the known phrase before them into another quantity: accuracy std, loss weight."""

_KNOWN: dict[str, Direction] = {**dict.fromkeys(_LARGE, MAX), **dict.fromkeys(_SMALL, MIN)}
_LOSSES = frozenset(("loss", "error", "err"))
"""Words that make a name ambiguous before a phrase to be maximized: `loss_dice`."""
_MINIMIZED = frozenset(("likelihood", "loglikelihood", "loglik", "logprob", "elbo"))
"""Quantities whose negative is commonly minimized, as in `neg_log_likelihood`."""
_LONGEST = 4
"""Maximum number of words in a phrase."""
_SPLITS = ("", "train", "training", "val", "valid", "validation", "test", "eval", "dev")

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+")
_PREPOSITION = re.compile(r"@|(?:^|[^A-Za-z])(?:at|when|given|per|for|on|of|under|with|without|by)(?=[^A-Za-z]|$)")
_RATE = re.compile(r"(?:/|(?:^|[^a-z])per[^a-z]*)(?:s|secs?|seconds?|min|minute|h|hour)$", re.I)
_ONE_MINUS = re.compile(r"(?:^|[/(\s])1\s*-\s*(?=[A-Za-z])|(?:^|[^a-z])one[_ -]?minus[_ -]?", re.I)
_TURNED = re.compile(
    r"(?:^|[/\s(])-(?=[A-Za-z])|^\s*1\s*/|(?:^|[^a-z])"
    r"(?:time|steps?|epochs?|iterations?|iters?|samples|tokens|episodes?|seconds|minutes|hours)[_ -]?to[_ -]",
    re.I,
)
"""A minus sign, a reciprocal, or the time until an event, for which more may be better (time to failure)."""
_SCORER = re.compile(
    r"(?:^|[^a-z])(?:neg(?:ative)?_(?:mean_absolute_error|(?:root_)?mean_squared(?:_log)?_error|median_absolute_error|"
    r"mean_absolute_percentage_error|mean_(?:poisson|gamma)_deviance|max_error|log_?loss|brier_score|"
    r"negative_likelihood_ratio|r?mse|r?msle|mape|mae)|d2_(?:absolute|pinball|tweedie|log_loss|brier)\w*)(?![a-z])",
    re.I,
)
"""scikit-learn's scorers, all of which are maximized although they are named after errors."""


@cache
def of(metric: str) -> Direction | None:
    """Return whether a metric is to be maximized or minimized, from its name; None if the name does not decide.

    Args:
        metric: the name as logged, such as `val/MulticlassAccuracy`, `AUC_weighted`, `test_loss`.
    """
    if _TURNED.search(metric):
        return None
    if _SCORER.search(metric):
        return MAX
    if rate := _RATE.search(metric):  # images per second: maximize; errors per second: minimize
        return of(metric[: rate.start()]) or MAX
    if minus := _ONE_MINUS.search(metric):
        rest = of(metric[minus.end() :])
        return None if rest is None else opposite(rest)
    for part in _PREPOSITION.split(metric):
        found, is_clear = _read(part)
        if found is not None or not is_clear:
            return found
    return None


def opposite(one: Direction) -> Direction:
    """Return the opposite direction."""
    return MIN if one == MAX else MAX


def words(one: Direction) -> str:
    """Return a direction as text for messages."""
    return "the larger the better" if one == MAX else "the smaller the better"


def _read(text: str) -> tuple[Direction | None, bool]:
    """Return the direction of a noun phrase, and whether, if it has none, the rest of the name may decide."""
    phrases = list(_phrases([word.lower() for word in _WORD.findall(text)]))
    known = [place for place, phrase in enumerate(phrases) if phrase in _KNOWN]
    negations = [place for place, phrase in enumerate(phrases) if phrase in _NEGATIONS]
    if not known:
        if negations:
            return None, False
        weak = [place for place, phrase in enumerate(phrases) if phrase in _WEAK]
        if weak and any(phrase in _AFTER for phrase in phrases[weak[-1] + 1 :]):
            return None, False
        return (MAX, True) if weak else (None, True)
    head = phrases[known[-1]]
    if negations:
        is_nll = head in _MINIMIZED and len(negations) == 1 and phrases[negations[0]] in ("neg", "negative")
        return MIN if is_nll and negations[0] < known[-1] else None, False
    if any(phrase in _AFTER for phrase in phrases[known[-1] + 1 :]):
        return None, False
    if _KNOWN[head] == MAX and any(phrases[place] in _LOSSES for place in known[:-1]):
        return None, False
    return _KNOWN[head], True


def _phrases(found: list[str]) -> Iterator[str]:
    """Yield words in order, with known phrases joined into one."""
    place = 0
    while place < len(found):
        for length in range(min(_LONGEST, len(found) - place), 0, -1):
            known = _known("".join(found[place : place + length]))
            if known is not None:
                yield known
                place += length
                break
        else:
            yield found[place]
            place += 1


def _known(phrase: str) -> str | None:
    """Return a phrase as listed in the tables, without a plural ending or a leading split name (`valloss`)."""
    for prefix in _SPLITS:
        if phrase.startswith(prefix):
            own = phrase[len(prefix) :]
            for form in (own, own.removesuffix("s"), own.removesuffix("es"), f"{own.removesuffix('ies')}y"):
                if form in _KNOWN or form in _UNSURE:
                    return form
    return None
