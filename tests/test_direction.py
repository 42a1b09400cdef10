"""The direction of a metric from its name: one rule for checkpoints, early stopping, sweeps and selection."""

from __future__ import annotations

import pytest

from labrun.runs import direction

LARGE = """
val/acc val_acc acc accuracy valAcc train/acc_epoch test_accuracies val/MulticlassAccuracy balanced_accuracy AUC
AUC_weighted AUROC val/auroc valAUROC roc_auc_ovr_weighted pr_auc average_precision f1 F1 f1_macro macroF1
val/f1-score f1score F1Score fbeta_score iou IoU mIoU val_mIoU MeanIoU IntersectionOverUnion dice DiceScore jaccard r2
R2Score r2_score recall recall@5 recall_at_95_precision precision val.precision mAP mAP50 mAP@0.5 map_50_95 val_ap
AP75 MulticlassRecall top5_acc top-1-acc acc@1 bleu BLEU-4 bleu4 sacrebleu rouge rouge1 rougeL psnr
PeakSignalNoiseRatio ssim kappa CohenKappa mcc matthews_corrcoef MatthewsCorrCoef pearson_corr spearmanr
explained_variance ndcg@10 mrr hits@10 hit_rate pass@1 mean_reciprocal_rank reward episode_return log_likelihood elbo
neg_log_loss neg_mean_squared_error val/neg_log_loss neg_root_mean_squared_error neg_brier_score neg_mae
d2_log_loss_score d2_absolute_error_score images_per_second it/s samples/sec tokens_per_sec throughput score
quality_score similarity cosine_similarity true_positive_rate tpr specificity negative_predictive_value
positive_likelihood_ratio num_correct bacc dice_coefficient r_squared text_to_image_recall@1 signal_to_noise_ratio
per_class_acc mean_per_class_accuracy valacc norm_macro_recall one_minus_loss brier_skill_score ep_rew_mean
sharpe_ratio eval_accuracy metrics/mAP50-95(B) bbox/AP Accuracy/train
"""

SMALL = """
loss val_loss val/loss train/loss_epoch valLoss val-loss ValLoss losses valloss error err error_rate val/err rmse mse
mae mape MSELoss MeanSquaredError mean_absolute_error wer val/WER cer nll NLLLoss fid FID logloss log_loss brier
brier_score perplexity ppl eer hinge time latency train_time ece fpr FPR@95TPR fpr_at_95_tpr fnr divergence kl
KLDivergence kl_loss distance edit_distance cross_entropy CrossEntropyLoss bce test_ce accuracy_loss dice_loss
iou_loss focal_loss auc_error acc_loss top5_error err@1 negative_log_likelihood neg_log_likelihood neg_elbo
false_positive_rate num_errors number_of_errors loss_at_best_acc loss_per_token misclassification_rate lpips
LearnedPerceptualImagePatchSimilarity bits_per_dim bpd cosine_distance ranking_loss rank_loss gradient_penalty regret
cost seconds seconds_per_epoch accuracy_drop errors_per_second 1-acc val/1-auc one_minus_acc one-minus-f1
word_error_rate rmsle inaccuracy loss_bbox fid_score CalibrationError smape aic
hd95 Loss/val val/box_loss loss_score real_time_factor interval_score energy_score winkler_score
ranked_probability_score
"""

NOTHING = """
foo metric objective value x learning_rate lr lr-Adam grad_norm epoch step entropy neg_acc neg_loss acc_neg
inverse_loss inverse_acc loss_ratio acc_std val_acc_variance loss_weight loss_scale loss_delta acc_vs_loss minus_acc
loss_dice loss_acc coverage sparsity temperature n_params mean_rank likelihood_ratio gini -loss non_acc top1
val/-acc 1/loss 1/mse score_std score_diff quality_variance log_score time_to_acc steps_to_90_acc time_to_failure
cost_savings time_saved survival_time time_alive error_free corrected_errors avoided_loss distance_traveled map_size
heat_map
"""


@pytest.mark.parametrize(("names", "wanted"), [(LARGE, "max"), (SMALL, "min"), (NOTHING, None)])
def test_the_direction_comes_from_the_name_or_is_unknown(names: str, wanted: str | None) -> None:
    assert {name: found for name in names.split() if (found := direction.of(name)) != wanted} == {}


def test_scorers_and_standard_metrics_have_a_direction() -> None:
    """For scikit-learn's scorers larger is better: errors are negated and have the prefix `neg_`."""
    from sklearn.metrics import get_scorer_names

    from labrun.tasks import scoring

    assert [name for name in get_scorer_names() if direction.of(name) != "max"] == []
    standard = {name: direction.of(name) for name in (*scoring.STANDARD, *scoring.QUANTITIES)}
    assert {name for name, found in standard.items() if found == "min"} == {"log_loss", "rmse", "mae"}
    assert None not in standard.values()
